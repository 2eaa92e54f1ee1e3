// guest-data-disk is the first program of a guest with a second disk: it reads that disk through its block device, so that it is
// in the guest's page cache, keeps it open, so that it stays there, and becomes guest-init. guest-init itself knows one disk.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"
	"unsafe"
)

const (
	dataDisk  = "/dev/vdb"
	guestInit = "/guest-init"
	diskWait  = 10 * time.Second
)

func main() {
	err := run()
	// A PID 1 that returns would panic the kernel without a message.
	fmt.Printf("guest-data-disk: %v\n", err)
	time.Sleep(time.Second)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func run() error {
	if err := os.MkdirAll("/dev", 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && err != syscall.EBUSY {
		return fmt.Errorf("/dev: %w", err)
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	fd, err := openWhenThere(dataDisk)
	if err != nil {
		return err
	}
	bytes, err := readAll(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", dataDisk, err)
	}
	fmt.Printf("guest-data-disk: %d bytes of %s read\n", bytes, dataDisk)
	return syscall.Exec(guestInit, []string{"/init"}, os.Environ())
}

// loadModules loads what guest-init loads too, which takes no offence at modules that are there.
func loadModules(directory string) error {
	names, err := filepath.Glob(directory + "/*.ko")
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		parameters := []byte{0}
		const sysFinitModule = 313 // x86-64
		_, _, errno := syscall.Syscall(sysFinitModule, file.Fd(), uintptr(unsafe.Pointer(&parameters[0])), 0)
		file.Close()
		if errno != 0 && errno != syscall.EEXIST {
			return fmt.Errorf("%s: %w", name, errno)
		}
	}
	return nil
}

// openWhenThere opens without O_CLOEXEC: the descriptor outlives exec, and with it the disk's pages.
func openWhenThere(path string) (int, error) {
	for deadline := time.Now().Add(diskWait); ; time.Sleep(10 * time.Millisecond) {
		fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
		if err == nil || !errors.Is(err, syscall.ENOENT) || time.Now().After(deadline) {
			return fd, err
		}
	}
}

func readAll(fd int) (int64, error) {
	buffer := make([]byte, 1<<20)
	var total int64
	for {
		n, err := syscall.Read(fd, buffer)
		if err != nil {
			return total, err
		}
		if n == 0 {
			return total, nil
		}
		total += int64(n)
	}
}
