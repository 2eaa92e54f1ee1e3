// What is known of one direction of one connection: bytes, hash, first bytes, timeline. Safe to be looked at (by a
// report on SIGUSR1) while bytes pass.
package main

import (
	"encoding/hex"
	"sync"
	"time"
)

// maxTimelineBuckets bounds the memory of a timeline: at 10 ms, 40 minutes without a pause. Later bytes count into the
// last bucket, and the report says so.
const maxTimelineBuckets = 240_000

// timelineBucket is the bytes that passed in one span of wall-clock time; spans without bytes have none.
type timelineBucket struct {
	number int64 // wall-clock time divided by the bucket's width
	bytes  int64
}

type direction struct {
	bucket time.Duration

	mutex     sync.Mutex
	bytes     int64
	first     []byte
	firstAt   time.Time
	lastAt    time.Time
	timeline  []timelineBucket
	truncated bool
	ended     bool

	hashMutex   sync.Mutex
	digest      *streamDigest
	hashedBytes int64
}

func (d *direction) init(bucket time.Duration, digest *streamDigest) {
	d.bucket = bucket
	d.digest = digest
}

// passed records bytes at the moment the next hop has accepted them.
func (d *direction) passed(bytes []byte) {
	if len(bytes) == 0 {
		return
	}
	now := time.Now()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.bytes == 0 {
		d.firstAt = now
	}
	d.lastAt = now
	d.bytes += int64(len(bytes))
	if missing := firstBytes - len(d.first); missing > 0 {
		if missing > len(bytes) {
			missing = len(bytes)
		}
		d.first = append(d.first, bytes[:missing]...)
	}
	number := now.UnixNano() / int64(d.bucket)
	last := len(d.timeline) - 1
	switch {
	case last >= 0 && d.timeline[last].number == number:
		d.timeline[last].bytes += int64(len(bytes))
	case len(d.timeline) >= maxTimelineBuckets:
		d.truncated = true
		d.timeline[last].bytes += int64(len(bytes))
	default:
		d.timeline = append(d.timeline, timelineBucket{number: number, bytes: int64(len(bytes))})
	}
}

func (d *direction) hash(bytes []byte) {
	d.hashMutex.Lock()
	d.digest.write(bytes)
	d.hashedBytes += int64(len(bytes))
	d.hashMutex.Unlock()
}

func (d *direction) end() {
	d.mutex.Lock()
	d.ended = true
	d.mutex.Unlock()
}

func (d *direction) firstBytes() []byte {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return append([]byte(nil), d.first...)
}

// sum returns the hash and how many bytes it covers: while bytes pass it may lag a few buffers behind the count.
func (d *direction) sum() (hexDigest string, bytes int64) {
	d.hashMutex.Lock()
	defer d.hashMutex.Unlock()
	sum := d.digest.sum()
	return hex.EncodeToString(sum[:]), d.hashedBytes
}

// settled is true when the hash covers every byte that passed.
func (d *direction) settled() bool {
	d.hashMutex.Lock()
	hashedBytes := d.hashedBytes
	d.hashMutex.Unlock()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return hashedBytes == d.bytes
}
