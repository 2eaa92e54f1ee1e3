package main

import (
	"encoding/binary"
	"math/rand"
	"testing"
)

func appendNumber(to []byte, numbers ...uint32) []byte {
	for _, number := range numbers {
		to = binary.BigEndian.AppendUint32(to, number)
	}
	return to
}

// record makes a call as libnfs sends it: one piece, AUTH_SYS of 24 bytes, file handle of 28 bytes.
func record(procedure uint32, data int) []byte {
	call := appendNumber(nil, 77, rpcCall, rpcVersion, nfsProgram, nfsVersion, procedure, 1, 24)
	call = append(call, make([]byte, 24)...)
	call = appendNumber(call, 0, 0, 28)
	call = append(call, make([]byte, 28)...)
	call = appendNumber(call, 0, 4096, uint32(data), 2)
	if procedure == nfsWrite {
		call = append(appendNumber(call, uint32(data)), make([]byte, data)...)
	}
	return append(appendNumber(nil, uint32(len(call))|lastPiece), call...)
}

func packet(port uint16, sequence uint32, flags byte, payload []byte) []byte {
	ip := make([]byte, 40, 40+len(payload))
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(payload)))
	ip[9] = 6
	binary.BigEndian.PutUint16(ip[20:], port)
	binary.BigEndian.PutUint16(ip[22:], nfsPort)
	binary.BigEndian.PutUint32(ip[24:], sequence)
	ip[32] = 5 << 4
	ip[33] = flags
	return append(ip, payload...)
}

// Any cut into segments, any order within a window, any of them twice, across the wrap of sequence numbers.
func TestCountsWriteDataOnly(t *testing.T) {
	for seed := int64(0); seed < 200; seed++ {
		random := rand.New(rand.NewSource(seed))
		var stream []byte
		want := int64(0)
		for i := 0; i < 20; i++ {
			switch random.Intn(3) {
			case 0:
				stream = append(stream, record(6, 65536)...)
			default:
				data := random.Intn(20_000)
				stream = append(stream, record(nfsWrite, data)...)
				want += int64(data)
			}
		}
		c := &counter{flows: map[flowKey]*flow{}}
		start := uint32(0xffffff00)
		c.packet(packet(700, start, tcpSyn, nil))
		var segments [][]byte
		for at := 0; at < len(stream); {
			length := min(1+random.Intn(1448), len(stream)-at)
			segment := packet(700, start+1+uint32(at), 0, stream[at:at+length])
			segments = append(segments, segment)
			if random.Intn(10) == 0 {
				segments = append(segments, segment)
			}
			at += length
		}
		for i := range segments {
			j := min(len(segments)-1, i+random.Intn(4))
			segments[i], segments[j] = segments[j], segments[i]
		}
		for _, segment := range segments {
			c.packet(segment)
		}
		if c.err != nil || c.writeBytes != want || c.calls != 20 {
			t.Fatalf("seed %d: %d bytes, want %d, %d calls, error %v", seed, c.writeBytes, want, c.calls, c.err)
		}
	}
}

func TestSaysWhatItCannotCount(t *testing.T) {
	version4 := record(nfsWrite, 10)
	binary.BigEndian.PutUint32(version4[4+16:], 4)
	for name, payload := range map[string][]byte{
		"version 4": version4,
		"no RPC":    append(appendNumber(nil, 40|lastPiece), make([]byte, 39+1)[:40]...),
		"cut":       append(appendNumber(nil, 24|lastPiece), record(nfsWrite, 1)[4:28]...),
	} {
		c := &counter{flows: map[flowKey]*flow{}}
		c.packet(packet(700, 0, tcpSyn, nil))
		if name == "no RPC" {
			payload[4+7] = 1
		}
		c.packet(packet(700, 1, 0, payload))
		if c.err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := &counter{flows: map[flowKey]*flow{}}
	c.packet(packet(700, 1, 0, record(nfsWrite, 1)))
	if c.err == nil {
		t.Error("a connection from before: no error")
	}
}
