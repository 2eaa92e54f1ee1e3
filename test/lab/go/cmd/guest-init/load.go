package main

import (
	"sync/atomic"
	"syscall"
	"time"
)

const loadInterval = 10 * time.Millisecond

// load is what the host asks the guest to do beside being there.
type load struct {
	memory *anonymousMemory
	files  *fileSet
	check  *selfCheck

	anonymousBytesPerSecond atomic.Uint64
	fileBytesPerSecond      atomic.Uint64
	rewritten               atomic.Uint64
}

func (l *load) running() bool {
	return l.anonymousBytesPerSecond.Load() > 0 || l.fileBytesPerSecond.Load() > 0
}

func (l *load) execute(c command) {
	switch c.kind {
	case commandLoad:
		l.anonymousBytesPerSecond.Store(c.first)
		l.fileBytesPerSecond.Store(c.second)
	case commandRewrite:
		l.rewriteFiles(c.first, c.second)
	case commandVerifyAll:
		l.check.everything()
	}
}

// run rewrites anonymous pages and file slices at the set rates. What the emulated CPU cannot do within an interval is
// not caught up with: a rate is a ceiling.
func (l *load) run() {
	random := randomSource(0x0badcafe0badcafe)
	var anonymousDebt, fileDebt float64
	last := time.Now()
	for {
		if !l.running() {
			time.Sleep(100 * time.Millisecond)
			last, anonymousDebt, fileDebt = time.Now(), 0, 0
			continue
		}
		time.Sleep(loadInterval)
		now := time.Now()
		elapsed := now.Sub(last).Seconds()
		last = now
		if elapsed > 0.1 {
			elapsed = 0.1
		}
		anonymousDebt += elapsed * float64(l.anonymousBytesPerSecond.Load())
		fileDebt += elapsed * float64(l.fileBytesPerSecond.Load())
		if pages := int(anonymousDebt) / pageSize; pages > 0 {
			l.rewritten.Add(uint64(l.memory.rewrite(pages)))
			anonymousDebt -= float64(pages * pageSize)
		}
		for fileDebt >= sliceSize && l.files.count() > 0 {
			n, err := l.files.rewrite(int(random.next()%uint64(l.files.count())), &random)
			if err != nil {
				l.check.count(err)
				break
			}
			l.rewritten.Add(uint64(n))
			fileDebt -= sliceSize
		}
	}
}

// rewriteFiles rewrites `total` bytes of cached files, evenly spread, and returns when they are on the disk.
func (l *load) rewriteFiles(total, seed uint64) {
	random := randomSource(seed*2 + 1)
	count := uint64(l.files.count())
	wanted := total / sliceSize
	if count == 0 || wanted == 0 {
		return
	}
	if wanted > count {
		wanted = count
	}
	for i := uint64(0); i < wanted; i++ {
		n, err := l.files.rewrite(int(i*count/wanted), &random)
		if err != nil {
			l.check.count(err)
			return
		}
		l.rewritten.Add(uint64(n))
	}
	syscall.Sync()
}
