package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// The self-check must not be a load: every 100 ms 64 KiB of anonymous memory and one slice of a file, about one
// percent of a CPU under emulation.
const (
	checkInterval      = 100 * time.Millisecond
	checkPagesPerRound = 16
)

// selfCheck verifies what the guest knows of its memory, round and round.
type selfCheck struct {
	memory   *anonymousMemory
	files    *fileSet
	ready    atomic.Bool
	verified atomic.Uint64
	failed   atomic.Uint64
	message  atomic.Pointer[string]
}

func newSelfCheck(memory *anonymousMemory, files *fileSet) *selfCheck {
	return &selfCheck{memory: memory, files: files}
}

// text is the first failure, empty while there is none.
func (c *selfCheck) text() string {
	if message := c.message.Load(); message != nil {
		return *message
	}
	return ""
}

func (c *selfCheck) count(err error) {
	if err == nil {
		c.verified.Add(1)
		return
	}
	c.failed.Add(1)
	message := err.Error()
	if c.message.CompareAndSwap(nil, &message) {
		fmt.Println("guest-init: self-check failed:", message)
	}
}

func (c *selfCheck) verifyPage(index int) {
	if c.memory.verify(index) {
		c.count(nil)
	} else {
		c.count(fmt.Errorf("anonymous page %d differs", index))
	}
}

func (c *selfCheck) run() {
	var page, slice int
	// Files are visited with a large stride, so that a short run sees all parts of the disk.
	const stride = 7919
	for {
		for i := 0; i < checkPagesPerRound && c.memory.pageCount() > 0; i++ {
			page = (page + 1) % c.memory.pageCount()
			c.verifyPage(page)
		}
		if count := c.files.count(); count > 0 {
			slice = (slice + stride) % count
			c.count(c.files.verify(slice))
		}
		time.Sleep(checkInterval)
	}
}

// everything verifies all anonymous memory and all files once, as fast as it can.
func (c *selfCheck) everything() {
	for i := 0; i < c.memory.pageCount(); i++ {
		c.verifyPage(i)
	}
	for i, count := 0, c.files.count(); i < count; i++ {
		c.count(c.files.verify(i))
	}
}
