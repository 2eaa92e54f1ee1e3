// Command frame-relay carries the test guest's Ethernet frames between a network interface and its standard streams, in
// the framing of QEMU's -netdev stream: u32 big-endian length, then the frame. In a KubeVirt pod the guest's card is
// a tap, so that no program can connect to it; this one runs in the pod's network namespace and looks at the tap.
//
//	frame-relay INTERFACE     the interface, or a prefix of its name
//
// Frames of the guest's EtherType (../guest-init/beacon.go) that arrive on the interface go to standard output; those on
// standard input are sent on it. The end of standard input ends the program.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

const (
	etherType = 0x88b5
	// Ethernet's smallest and, with offloads, largest frame.
	minFrame = 14
	maxFrame = 72 * 1024
	// sll_pkttype of what this socket itself sent.
	packetOutgoing = 4
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "frame-relay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 || args[0] == "" {
		return errors.New("usage: frame-relay INTERFACE (or a prefix of its name)")
	}
	link, err := findInterface(args[0])
	if err != nil {
		return err
	}
	fd, err := openSocket(link.Index)
	if err != nil {
		return fmt.Errorf("%s: %w; it takes CAP_NET_RAW", link.Name, err)
	}
	fmt.Fprintln(os.Stderr, "frame-relay: on", link.Name)
	failed := make(chan error, 2)
	go func() { failed <- toOutput(fd, os.Stdout) }()
	go func() { failed <- fromInput(fd, link.Index, os.Stdin) }()
	return <-failed
}

func findInterface(prefix string) (*net.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(links))
	for i := range links {
		if strings.HasPrefix(links[i].Name, prefix) {
			return &links[i], nil
		}
		names = append(names, links[i].Name)
	}
	return nil, fmt.Errorf("no interface %s… here; there are %s", prefix, strings.Join(names, ", "))
}

func openSocket(index int) (int, error) {
	protocol := uint16(etherType<<8&0xff00 | etherType>>8) // network byte order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return -1, err
	}
	return fd, syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: protocol, Ifindex: index})
}

func toOutput(fd int, out io.Writer) error {
	buffer := make([]byte, 4+maxFrame)
	for {
		n, from, err := syscall.Recvfrom(fd, buffer[4:], 0)
		if err == syscall.EINTR || err == syscall.ENETDOWN {
			continue
		}
		if err != nil {
			return err
		}
		if link, ok := from.(*syscall.SockaddrLinklayer); ok && link.Pkttype == packetOutgoing {
			continue
		}
		binary.BigEndian.PutUint32(buffer, uint32(n))
		if _, err := out.Write(buffer[:4+n]); err != nil {
			return err
		}
	}
}

func fromInput(fd, index int, in io.Reader) error {
	address := syscall.SockaddrLinklayer{Ifindex: index, Halen: 6}
	header := make([]byte, 4)
	for {
		if _, err := io.ReadFull(in, header); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		length := binary.BigEndian.Uint32(header)
		if length < minFrame || length > maxFrame {
			return fmt.Errorf("a frame of %d bytes on standard input", length)
		}
		frame := make([]byte, length)
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		copy(address.Addr[:6], frame[:6])
		if err := syscall.Sendto(fd, frame, 0, &address); err != nil && err != syscall.ENETDOWN && err != syscall.ENOBUFS {
			return err
		}
	}
}
