package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	tcpSyn = 0x02

	// ONC RPC (RFC 5531) and NFSv3 (RFC 1813).
	rpcCall     = 0
	rpcVersion  = 2
	nfsProgram  = 100003
	nfsVersion  = 3
	nfsWrite    = 7
	nfsMaxFh    = 64
	rpcMaxAuth  = 400
	lastPiece   = 0x80000000
	markerBytes = 4

	// headBytes has in it all of a WRITE call up to its data: RPC header, two authenticators, file handle, offset, counts.
	headBytes = 24 + 2*(8+rpcMaxAuth) + 4 + nfsMaxFh + 16
	// maxEarlyBytes bounds what is kept of segments that came before their turn: a TCP window.
	maxEarlyBytes = 32 << 20
)

type flowKey struct {
	source uint32
	port   uint16
}

// counter adds up the calls of all connections to the NFS server. After an error its numbers are not to be believed.
type counter struct {
	flows                         map[flowKey]*flow
	calls, writeCalls, writeBytes int64
	err                           error
}

func (c *counter) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// packet takes an IPv4 packet as the filter lets it through.
func (c *counter) packet(ip []byte) {
	if len(ip) < 20 {
		return
	}
	headerBytes := int(ip[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total > len(ip) || headerBytes < 20 || total < headerBytes+20 {
		c.fail(fmt.Errorf("a packet of %d bytes that says it has %d", len(ip), total))
		return
	}
	tcp := ip[headerBytes:total]
	tcpHeaderBytes := int(tcp[12]>>4) * 4
	if tcpHeaderBytes < 20 || tcpHeaderBytes > len(tcp) {
		c.fail(fmt.Errorf("a TCP header of %d bytes", tcpHeaderBytes))
		return
	}
	key := flowKey{binary.BigEndian.Uint32(ip[12:]), binary.BigEndian.Uint16(tcp)}
	sequence := binary.BigEndian.Uint32(tcp[4:])
	if tcp[13]&tcpSyn != 0 {
		c.flows[key] = &flow{next: sequence + 1, early: map[uint32][]byte{}}
		return
	}
	f := c.flows[key]
	if f == nil {
		c.fail(fmt.Errorf("a connection from port %d that began before the counting", key.port))
		return
	}
	if err := f.segment(c, sequence, tcp[tcpHeaderBytes:]); err != nil {
		c.fail(err)
	}
}

// flow is the node's half of one connection: TCP's segments put in order, cut into RPC records.
type flow struct {
	next       uint32
	early      map[uint32][]byte
	earlyBytes int
	// marker and head are what is known of the record under way; left is what is to come of its present piece.
	marker  []byte
	head    []byte
	left    int
	isLast  bool
	counted bool
}

func (f *flow) segment(c *counter, sequence uint32, payload []byte) error {
	ahead := int32(sequence - f.next)
	if ahead > 0 {
		// Something before it was dropped after the interface's queue, or overtaken: TCP will send it again.
		if f.earlyBytes += len(payload); f.earlyBytes > maxEarlyBytes {
			return errors.New("a segment never came")
		}
		f.early[sequence] = append([]byte(nil), payload...)
		return nil
	}
	if int(-ahead) >= len(payload) {
		return nil
	}
	if err := f.bytes(c, payload[-ahead:]); err != nil {
		return err
	}
	for len(f.early) > 0 {
		sequence, payload, found := f.takeEarly()
		if !found {
			return nil
		}
		if old := int(f.next - sequence); old < len(payload) {
			if err := f.bytes(c, payload[old:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeEarly removes a kept segment whose turn has come.
func (f *flow) takeEarly() (uint32, []byte, bool) {
	for sequence, payload := range f.early {
		if int32(sequence-f.next) <= 0 {
			delete(f.early, sequence)
			f.earlyBytes -= len(payload)
			return sequence, payload, true
		}
	}
	return 0, nil, false
}

// bytes takes the next bytes of the connection.
func (f *flow) bytes(c *counter, payload []byte) error {
	f.next += uint32(len(payload))
	for len(payload) > 0 {
		if f.left == 0 {
			take := min(markerBytes-len(f.marker), len(payload))
			f.marker = append(f.marker, payload[:take]...)
			payload = payload[take:]
			if len(f.marker) < markerBytes {
				return nil
			}
			marker := binary.BigEndian.Uint32(f.marker)
			f.marker = f.marker[:0]
			f.left, f.isLast = int(marker&^lastPiece), marker&lastPiece != 0
		}
		take := min(f.left, len(payload))
		if room := headBytes - len(f.head); room > 0 && !f.counted {
			f.head = append(f.head, payload[:min(take, room)]...)
		}
		payload = payload[take:]
		f.left -= take
		isOver := f.left == 0 && f.isLast
		if !f.counted && (len(f.head) >= headBytes || isOver) {
			if err := c.call(f.head); err != nil {
				return err
			}
			f.counted = true
		}
		if isOver {
			f.head, f.counted = f.head[:0], false
		}
	}
	return nil
}

// call takes the beginning of an RPC record.
func (c *counter) call(head []byte) error {
	r := reader{bytes: head}
	r.skip(4) // transaction
	messageType, version := r.number(), r.number()
	program, programVersion, procedure := r.number(), r.number(), r.number()
	if r.failed || messageType != rpcCall || version != rpcVersion {
		return fmt.Errorf("a record of %d bytes that is no RPC call", len(head))
	}
	c.calls++
	if program != nfsProgram {
		return nil
	}
	if programVersion != nfsVersion {
		return fmt.Errorf("NFS version %d: only version 3 is counted", programVersion)
	}
	if procedure != nfsWrite {
		return nil
	}
	for i := 0; i < 2; i++ {
		r.skip(4) // kind of authenticator
		r.skipOpaque(rpcMaxAuth)
	}
	r.skipOpaque(nfsMaxFh)
	r.skip(8) // offset
	count := r.number()
	if r.failed {
		return fmt.Errorf("a WRITE call that ends after %d bytes", len(head))
	}
	c.writeCalls++
	c.writeBytes += int64(count)
	return nil
}

// reader reads XDR (RFC 4506); after the first failure everything is zero.
type reader struct {
	bytes  []byte
	failed bool
}

func (r *reader) skip(n int) {
	if n > len(r.bytes) {
		r.bytes, r.failed = nil, true
		return
	}
	r.bytes = r.bytes[n:]
}

func (r *reader) number() uint32 {
	if len(r.bytes) < 4 {
		r.failed = true
		return 0
	}
	value := binary.BigEndian.Uint32(r.bytes)
	r.bytes = r.bytes[4:]
	return value
}

func (r *reader) skipOpaque(most int) {
	length := int(r.number())
	if length > most {
		r.bytes, r.failed = nil, true
		return
	}
	r.skip((length + 3) &^ 3)
}

func min(left, right int) int {
	if left < right {
		return left
	}
	return right
}
