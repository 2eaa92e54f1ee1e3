// The report file, written beside its place and renamed, so that a reader never sees half of one. The lab's
// TypeScript reads it (recorders.ts). Times are milliseconds since 1970 by the wall clock.
package main

import (
	"encoding/json"
	"os"
	"time"
)

type report struct {
	StartedMs   int64              `json:"startedMs"`
	WrittenMs   int64              `json:"writtenMs"`
	Open        int                `json:"open"`
	TimelineMs  int64              `json:"timelineMs"`
	Connections []connectionReport `json:"connections"`
}

type connectionReport struct {
	Ordinal  int             `json:"ordinal"`
	Kind     string          `json:"kind"`
	ID       *int            `json:"id"`
	OpenedMs int64           `json:"openedMs"`
	ClosedMs *int64          `json:"closedMs"`
	Errors   []string        `json:"errors"`
	Forward  directionReport `json:"forward"`
	Return   directionReport `json:"return"`
}

type directionReport struct {
	Bytes       int64      `json:"bytes"`
	Digest      string     `json:"digest"` // hexadecimal, see digest.go
	HashedBytes int64      `json:"hashedBytes"`
	Ended       bool       `json:"ended"`
	FirstMs     *int64     `json:"firstMs"`
	LastMs      *int64     `json:"lastMs"`
	Timeline    [][2]int64 `json:"timeline"` // pairs of bucket start in ms, bytes
	Truncated   bool       `json:"timelineTruncated"`
}

func (r *recorder) writeReport() error {
	r.reportMutex.Lock()
	defer r.reportMutex.Unlock()
	r.mutex.Lock()
	connections := append([]*connection(nil), r.connections...)
	out := report{
		StartedMs:   r.started.UnixMilli(),
		WrittenMs:   time.Now().UnixMilli(),
		Open:        r.open,
		TimelineMs:  r.options.timelineBucket.Milliseconds(),
		Connections: make([]connectionReport, 0, len(connections)),
	}
	r.mutex.Unlock()
	for _, c := range connections {
		out.Connections = append(out.Connections, c.report())
	}
	encoded, err := json.Marshal(out)
	if err != nil {
		return err
	}
	temporary := r.options.reportPath + ".writing"
	if err := os.WriteFile(temporary, encoded, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, r.options.reportPath)
}

func (c *connection) report() connectionReport {
	kind, id := c.kind()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return connectionReport{
		Ordinal:  c.ordinal,
		Kind:     kind,
		ID:       id,
		OpenedMs: c.openedAt.UnixMilli(),
		ClosedMs: milliseconds(c.closedAt),
		Errors:   append([]string{}, c.errors...),
		Forward:  c.forward.report(),
		Return:   c.back.report(),
	}
}

func (d *direction) report() directionReport {
	digest, hashedBytes := d.sum()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	timeline := make([][2]int64, len(d.timeline))
	for i, bucket := range d.timeline {
		timeline[i] = [2]int64{bucket.number * d.bucket.Milliseconds(), bucket.bytes}
	}
	return directionReport{
		Bytes:       d.bytes,
		Digest:      digest,
		HashedBytes: hashedBytes,
		Ended:       d.ended,
		FirstMs:     milliseconds(d.firstAt),
		LastMs:      milliseconds(d.lastAt),
		Timeline:    timeline,
		Truncated:   d.truncated,
	}
}

func milliseconds(at time.Time) *int64 {
	if at.IsZero() {
		return nil
	}
	ms := at.UnixMilli()
	return &ms
}
