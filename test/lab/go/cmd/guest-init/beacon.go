package main

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Frames between guest and host, all integers big-endian. The host's side is test/lab/guest-beacon.ts: change both.
//
// Guest to host, every 10 ms, broadcast:
//
//	 0  14  Ethernet header, type 0x88B5 (IEEE 802 local experimental 1)
//	14   4  magic "NMGB"
//	18   2  version 1
//	20   2  flags: 1 ready, 2 load running
//	22   8  counter, from 1
//	30   8  guest's monotonic clock, ns
//	38   8  slices verified
//	46   8  slices that failed
//	54   8  bytes rewritten by load and commands
//	62   4  number of the last command accepted
//	66   4  number of the last command finished
//	70   2  length of the text (at most 96)
//	72   96 text: the first failure, or what the guest is doing; padded with zero bytes
//
// Host to guest, a command, repeated by the host until accepted:
//
//	 0  14  Ethernet header, same type
//	14   4  magic "NMGC"
//	18   4  number, from 1, one more than the last
//	22   2  kind: 1 load, 2 rewrite files, 3 verify everything
//	24   8  first argument:  bytes/s of anonymous memory; bytes to rewrite; 0
//	32   8  second argument: bytes/s of files;            seed;             0
const (
	etherType      = 0x88b5
	beaconMagic    = 0x4e4d4742
	commandMagic   = 0x4e4d4743
	beaconVersion  = 1
	beaconSize     = 168
	beaconTextSize = 96
	commandSize    = 40
	flagReady      = 1
	flagLoad       = 2
	beaconInterval = 10 * time.Millisecond
)

const (
	commandLoad      = 1
	commandRewrite   = 2
	commandVerifyAll = 3
)

type command struct {
	number        uint32
	kind          uint16
	first, second uint64
}

// beacon is the guest's one socket to the host.
type beacon struct {
	fd       int
	address  syscall.SockaddrLinklayer
	hardware net.HardwareAddr
	accepted atomic.Uint32
	finished atomic.Uint32
}

func openBeacon(interfaceName string) (*beacon, error) {
	link, err := net.InterfaceByName(interfaceName)
	if err != nil {
		return nil, err
	}
	protocol := uint16(etherType<<8&0xff00 | etherType>>8) // network byte order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil, err
	}
	address := syscall.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index, Halen: 6}
	if err := syscall.Bind(fd, &address); err != nil {
		return nil, err
	}
	for i := range address.Addr[:6] {
		address.Addr[i] = 0xff
	}
	return &beacon{fd: fd, address: address, hardware: link.HardwareAddr}, nil
}

// announce sends the beacon for ever. A full transmit queue loses a frame; the counter goes on, so that the host sees it.
func (b *beacon) announce(check *selfCheck, load *load) {
	started := time.Now()
	frame := make([]byte, beaconSize)
	for i := 0; i < 6; i++ {
		frame[i] = 0xff
	}
	copy(frame[6:12], b.hardware)
	binary.BigEndian.PutUint16(frame[12:], etherType)
	binary.BigEndian.PutUint32(frame[14:], beaconMagic)
	binary.BigEndian.PutUint16(frame[18:], beaconVersion)
	var counter uint64
	for {
		counter++
		var flags uint16
		if check.ready.Load() {
			flags |= flagReady
		}
		if load.running() {
			flags |= flagLoad
		}
		binary.BigEndian.PutUint16(frame[20:], flags)
		binary.BigEndian.PutUint64(frame[22:], counter)
		binary.BigEndian.PutUint64(frame[30:], uint64(time.Since(started)))
		binary.BigEndian.PutUint64(frame[38:], check.verified.Load())
		binary.BigEndian.PutUint64(frame[46:], check.failed.Load())
		binary.BigEndian.PutUint64(frame[54:], load.rewritten.Load())
		binary.BigEndian.PutUint32(frame[62:], b.accepted.Load())
		binary.BigEndian.PutUint32(frame[66:], b.finished.Load())
		text := check.text()
		length := copy(frame[72:72+beaconTextSize], text)
		for i := 72 + length; i < 72+beaconTextSize; i++ {
			frame[i] = 0
		}
		binary.BigEndian.PutUint16(frame[70:], uint16(length))
		_ = syscall.Sendto(b.fd, frame, syscall.MSG_DONTWAIT, &b.address)
		time.Sleep(beaconInterval)
	}
}

// serveCommands reads commands for ever. A repeated number is one that the host has not seen accepted yet.
func (b *beacon) serveCommands(load *load) {
	buffer := make([]byte, 2048)
	for {
		n, _, err := syscall.Recvfrom(b.fd, buffer, 0)
		if err == syscall.EINTR {
			continue
		}
		must("receive from the host", err)
		if n < commandSize || binary.BigEndian.Uint32(buffer[14:]) != commandMagic {
			continue
		}
		c := command{
			number: binary.BigEndian.Uint32(buffer[18:]),
			kind:   binary.BigEndian.Uint16(buffer[22:]),
			first:  binary.BigEndian.Uint64(buffer[24:]),
			second: binary.BigEndian.Uint64(buffer[32:]),
		}
		if c.number != b.accepted.Load()+1 || b.accepted.Load() != b.finished.Load() {
			continue
		}
		b.accepted.Store(c.number)
		go func() {
			load.execute(c)
			b.finished.Store(c.number)
		}()
	}
}
