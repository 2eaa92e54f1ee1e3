// Command nfs-write-counter counts the file data that a node writes to the NAS: the sizes in the NFSv3 WRITE calls that leave
// through its storage interface. The interface's own byte counter cannot tell that from calls and acknowledgements, which
// every read has too. It looks at copies of packets (AF_PACKET) and is in nobody's way.
//
//	nfs-write-counter --report FILE
//
// It must run before the connections that it is to count begin. The report (JSON) is written at the start, on SIGUSR1 and on
// SIGTERM, which also ends the program, after every packet sent before. One line `{"counting": true}` on standard output says
// that it is ready. What it could not follow is an error in the report, never a number that is too small.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// pollMs bounds how late a signal is seen.
const pollMs = 10

type report struct {
	WrittenMs  int64  `json:"writtenMs"`
	WriteCalls int64  `json:"writeCalls"`
	WriteBytes int64  `json:"writeBytes"`
	Calls      int64  `json:"calls"`
	Error      string `json:"error"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nfs-write-counter:", err)
		os.Exit(1)
	}
}

func run() error {
	reportPath := flag.String("report", "", "file to write the JSON report to")
	flag.Parse()
	if *reportPath == "" || flag.NArg() > 0 {
		return errors.New("usage: nfs-write-counter --report FILE")
	}
	socket, err := openPacketSocket()
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	c := &counter{flows: map[flowKey]*flow{}}
	if err := writeReport(*reportPath, c.report()); err != nil {
		return err
	}
	ready, _ := json.Marshal(map[string]bool{"counting": true})
	fmt.Println(string(ready))

	packet := make([]byte, 1<<16)
	for {
		n, _, err := syscall.Recvfrom(socket, packet, syscall.MSG_DONTWAIT)
		switch {
		case err == nil:
			c.packet(packet[:n])
			continue
		case err == syscall.EINTR:
			continue
		case err != syscall.EAGAIN:
			return fmt.Errorf("packet socket: %w", err)
		}
		// Nothing is queued: what a report says now includes every packet that was sent before it was asked for.
		select {
		case received := <-signals:
			if dropped, err := droppedPackets(socket); err != nil {
				return err
			} else if dropped > 0 {
				c.fail(fmt.Errorf("the kernel dropped %d packets before they were seen", dropped))
			}
			if err := writeReport(*reportPath, c.report()); err != nil {
				return err
			}
			if received != syscall.SIGUSR1 {
				return nil
			}
		case <-time.After(pollMs * time.Millisecond):
		}
	}
}

func (c *counter) report() report {
	r := report{
		WrittenMs: time.Now().UnixMilli(), WriteCalls: c.writeCalls, WriteBytes: c.writeBytes, Calls: c.calls,
	}
	if c.err != nil {
		r.Error = c.err.Error()
	}
	return r
}

func writeReport(path string, r report) error {
	encoded, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temporary := path + ".writing"
	if err := os.WriteFile(temporary, encoded, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
