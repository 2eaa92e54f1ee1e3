// One relayed connection: two directions, each a reader that writes on at once and a hasher that follows behind.
// Half-closes pass through in both directions, and so does "nobody reads any more", as far as a unix socket can say it.
package main

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// bufferBytes is what one direction may hold besides the socket buffers. Small against what a migration
	// sends in 10 ms at 1 Gbit/s, so that a recorder does not change when QEMU thinks its bytes have left.
	bufferBytes = 128 * 1024
	// buffersPerDirection lets hashing lag behind relaying by a few buffers before it slows it down.
	buffersPerDirection = 4
	// firstBytes is as much of a connection as its kind can be told from: the channel id of a multifd
	// connection is byte 24 of its first packet (magic 4, version 4, uuid 16, id 1).
	firstBytes = 25
)

const (
	magicMain    = 0x5145564d // "QEVM"
	magicMultifd = 0x11223344
)

type connection struct {
	ordinal  int
	openedAt time.Time

	mutex    sync.Mutex
	closedAt time.Time
	errors   []string

	forward direction // from the accepted side to the dialed side: QEMU source to QEMU destination
	back    direction // return path
}

func newConnection(bucket time.Duration, mac cipher.AEAD) *connection {
	c := &connection{openedAt: time.Now()}
	c.forward.init(bucket, newStreamDigest(mac))
	c.back.init(bucket, newStreamDigest(mac))
	return c
}

// relay copies both directions until both have ended, then closes both sockets.
func (c *connection) relay(accepted, dialed *net.UnixConn) {
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		c.note("forward", c.forward.relay(accepted, dialed))
	}()
	go func() {
		defer both.Done()
		c.note("return", c.back.relay(dialed, accepted))
	}()
	both.Wait()
	accepted.Close()
	dialed.Close()
	c.mutex.Lock()
	c.closedAt = time.Now()
	c.mutex.Unlock()
}

func (c *connection) fail(err error) {
	c.note("dial", err)
	c.mutex.Lock()
	c.closedAt = time.Now()
	c.mutex.Unlock()
}

func (c *connection) note(what string, err error) {
	if err == nil {
		return
	}
	c.mutex.Lock()
	c.errors = append(c.errors, what+": "+err.Error())
	c.mutex.Unlock()
}

// kind tells the channel by its first bytes, as the destination QEMU does.
func (c *connection) kind() (kind string, id *int) {
	first := c.forward.firstBytes()
	if len(first) < 4 {
		return "other", nil
	}
	switch binary.BigEndian.Uint32(first) {
	case magicMain:
		return "main", nil
	case magicMultifd:
		if len(first) == firstBytes {
			channel := int(first[24])
			return "multifd", &channel
		}
		return "multifd", nil
	}
	return "other", nil
}

// relay passes bytes from src to dst until src ends or dst takes no more. What was written is counted and hashed:
// at the source that is what QEMU wrote, at the destination what QEMU received.
func (d *direction) relay(src, dst *net.UnixConn) error {
	free := make(chan []byte, buffersPerDirection)
	for i := 0; i < buffersPerDirection; i++ {
		free <- make([]byte, bufferBytes)
	}
	written := make(chan []byte, buffersPerDirection)
	hashed := make(chan struct{})
	go func() {
		for buffer := range written {
			d.hash(buffer)
			free <- buffer[:bufferBytes]
		}
		close(hashed)
	}()
	err := func() error {
		for {
			buffer := <-free
			read, readErr := src.Read(buffer)
			if read > 0 {
				count, writeErr := dst.Write(buffer[:read])
				d.passed(buffer[:count])
				written <- buffer[:count]
				if writeErr != nil {
					// dst reads no more: let src know by making its next write fail, as it would on a direct connection.
					src.CloseRead()
					return writeErr
				}
			}
			if readErr != nil {
				dst.CloseWrite()
				if errors.Is(readErr, io.EOF) {
					return nil
				}
				return readErr
			}
		}
	}()
	close(written)
	<-hashed
	d.end()
	return err
}
