package main

import (
	"fmt"
	"syscall"
	"unsafe"
)

const (
	nfsPort = 2049
	// receiveBufferBytes holds what a node writes in a good tenth of a second at 1 Gbit/s.
	receiveBufferBytes = 16 << 20

	solPacket        = 263
	packetStatistics = 6
	packetOutgoing   = 4
	// Load offsets at which a socket filter finds what is not in the packet: its protocol and its direction.
	skfProtocol   = 0xfffff000
	skfPacketType = 0xfffff004
	soRcvbufforce = 33
)

// openPacketSocket gets a copy of every TCP segment that this host sends to an NFS server and that carries data or opens a
// connection; each begins with its IP header. The filter runs in the kernel: acknowledgements cost us nothing.
func openPacketSocket() (int, error) {
	// Protocol 0 until the filter is in place: not one packet gets past it.
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w (needs root)", err)
	}
	const (
		loadWord  = syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS
		loadHalf  = syscall.BPF_LD | syscall.BPF_H | syscall.BPF_ABS
		loadByte  = syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS
		ipHeader  = syscall.BPF_LDX | syscall.BPF_B | syscall.BPF_MSH
		halfAtX   = syscall.BPF_LD | syscall.BPF_H | syscall.BPF_IND
		byteAtX   = syscall.BPF_LD | syscall.BPF_B | syscall.BPF_IND
		ifEqual   = syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K
		ifAnyBit  = syscall.BPF_JMP | syscall.BPF_JSET | syscall.BPF_K
		subtractX = syscall.BPF_ALU | syscall.BPF_SUB | syscall.BPF_X
		shiftLeft = syscall.BPF_ALU | syscall.BPF_LSH | syscall.BPF_K
		shiftDown = syscall.BPF_ALU | syscall.BPF_RSH | syscall.BPF_K
		toX       = syscall.BPF_MISC | syscall.BPF_TAX
		store     = syscall.BPF_ST
		load      = syscall.BPF_LD | syscall.BPF_MEM
		give      = syscall.BPF_RET | syscall.BPF_K
	)
	type instruction = syscall.SockFilter
	filter := []instruction{
		{Code: loadWord, K: skfProtocol},
		{Code: ifEqual, K: syscall.ETH_P_IP, Jf: 21},
		{Code: loadWord, K: skfPacketType},
		{Code: ifEqual, K: packetOutgoing, Jf: 19},
		{Code: loadByte, K: 9},
		{Code: ifEqual, K: syscall.IPPROTO_TCP, Jf: 17},
		{Code: ipHeader, K: 0},
		{Code: halfAtX, K: 2},
		{Code: ifEqual, K: nfsPort, Jf: 14},
		{Code: byteAtX, K: 13},
		{Code: ifAnyBit, K: tcpSyn, Jt: 11},
		// Payload: the packet's length less the IP header's less the TCP header's.
		{Code: loadHalf, K: 2},
		{Code: subtractX},
		{Code: store, K: 0},
		{Code: byteAtX, K: 12},
		{Code: shiftDown, K: 4},
		{Code: shiftLeft, K: 2},
		{Code: toX},
		{Code: load, K: 0},
		{Code: subtractX},
		{Code: ifEqual, K: 0, Jt: 2},
		{Code: give, K: 1 << 16},
		{Code: give, K: 1 << 16},
		{Code: give, K: 0},
	}
	fail := func(what string, err error) (int, error) {
		syscall.Close(socket)
		return -1, fmt.Errorf("%s: %w", what, err)
	}
	if err := syscall.AttachLsf(socket, filter); err != nil {
		return fail("socket filter", err)
	}
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, soRcvbufforce, receiveBufferBytes); err != nil {
		// A container may lack CAP_NET_ADMIN; what the default buffer drops is found out.
		_ = syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBufferBytes)
	}
	// Packets that leave are shown only to those who ask for all protocols. In network byte order.
	const all = syscall.ETH_P_ALL<<8&0xff00 | syscall.ETH_P_ALL>>8
	if err := syscall.Bind(socket, &syscall.SockaddrLinklayer{Protocol: all}); err != nil {
		return fail("bind", err)
	}
	return socket, nil
}

// droppedPackets is how many packets did not fit into the receive buffer since the last call.
func droppedPackets(socket int) (uint32, error) {
	var statistics struct{ packets, drops uint32 }
	size := uint32(unsafe.Sizeof(statistics))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(socket), solPacket, packetStatistics,
		uintptr(unsafe.Pointer(&statistics)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("statistics of the packet socket: %w", errno)
	}
	return statistics.drops, nil
}
