// guest-init is PID 1 of the lab's guest: it plays a VM whose memory is mostly page cache, and which notices by itself
// when a migration gave it a wrong byte or kept it stopped.
//
// It reads the guest disk's files into the page cache, fills anonymous memory, then for ever verifies small slices of
// both and says every 10 ms, in an Ethernet frame, how far it is (beacon.go). Commands from the host change its load.
// What it does is set on the kernel's command line, in MiB (the profiles in test/lab/guest-profiles.ts choose):
//
//	nasmig.read    how much of the disk's files to read into the page cache (0: the disk is not mounted)
//	nasmig.random  anonymous memory with incompressible content
//	nasmig.text    anonymous memory with compressible content that no file has
//	nasmig.churn   how much to write, delete and rewrite on the disk before reading, to age it
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const diskMount = "/disk"

func main() {
	// The heap is a few MiB of checksums; collecting early keeps garbage out of the guest's page counts.
	debug.SetGCPercent(20)
	must("mount the kernel's file systems", mountKernelFilesystems())
	must("load the kernel modules", loadModules("/modules"))
	must("bring the network up", interfaceUp("eth0"))
	options := readOptions()

	memory := newAnonymousMemory(options["random"], options["text"])
	files := &fileSet{}
	host := must1(openBeacon("eth0"))
	check := newSelfCheck(memory, files)
	load := &load{memory: memory, files: files, check: check}
	go host.announce(check, load)

	if options["read"] > 0 {
		must("mount the disk", mountDisk())
		if options["churn"] > 0 {
			must("age the disk", ageDisk(diskMount, options["churn"]<<20))
		}
		must("warm the page cache", files.warm(diskMount, int64(options["read"])<<20))
	}
	memory.fill()
	// What boot left dirty goes to the disk now, so that an idle guest writes nothing to it later.
	syscall.Sync()
	time.Sleep(500 * time.Millisecond)
	fmt.Printf("guest-init: ready, %d slices of files, %d pages of anonymous memory\n", files.count(), memory.pageCount())
	check.ready.Store(true)

	go check.run()
	go load.run()
	host.serveCommands(load)
}

// must ends the guest with a message on its console; a PID 1 that returns would panic the kernel without one.
func must(what string, err error) {
	if err == nil {
		return
	}
	fmt.Printf("guest-init: cannot %s: %v\n", what, err)
	time.Sleep(time.Second)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func must1[T any](value T, err error) T {
	must("open the network socket", err)
	return value
}

func mountKernelFilesystems() error {
	for _, m := range []struct{ source, target, kind string }{
		{"devtmpfs", "/dev", "devtmpfs"},
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.source, m.target, m.kind, 0, ""); err != nil && err != syscall.EBUSY {
			return fmt.Errorf("%s: %w", m.target, err)
		}
	}
	// The kernel opened /dev/console before devtmpfs was there.
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err == nil {
		os.Stdout, os.Stderr = console, console
	}
	return nil
}

// loadModules loads every file of the directory in the order of the names, which the image builder numbers.
func loadModules(directory string) error {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	sort.Strings(names)
	for _, name := range names {
		file, err := os.Open(directory + "/" + name)
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

// interfaceUp sets IFF_UP; the interface needs no address, its frames are raw Ethernet.
func interfaceUp(name string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], name)
	request.flags = syscall.IFF_UP
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}

func mountDisk() error {
	if err := os.MkdirAll(diskMount, 0o755); err != nil {
		return err
	}
	// noatime: reading a file must not write to the disk.
	return syscall.Mount("/dev/vda", diskMount, "ext4", syscall.MS_NOATIME, "")
}

// readOptions returns the numbers of the `nasmig.*` words of the kernel's command line, by the part after the dot.
func readOptions() map[string]int {
	options := map[string]int{}
	line, err := os.ReadFile("/proc/cmdline")
	must("read the kernel's command line", err)
	for _, word := range strings.Fields(string(line)) {
		name, value, found := strings.Cut(word, "=")
		if !found || !strings.HasPrefix(name, "nasmig.") {
			continue
		}
		number, err := strconv.Atoi(value)
		must("read "+word, err)
		options[strings.TrimPrefix(name, "nasmig.")] = number
	}
	return options
}
