// The digest of a byte stream: AES-128-GMAC of each segment under a key that only the two recorders of a migration have,
// and SHA-256 over the tags. As long as nobody who chooses the bytes knows the key, two streams that differ have the
// same digest with a chance below 2^-115 a segment. SHA-256 over everything costs seven times as much, which on a lab
// machine of two cores slows down what is measured.
package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
)

const (
	// segmentBytes is what one tag covers.
	segmentBytes = 64 * 1024
	keyBytes     = 16 // AES-128
)

type streamDigest struct {
	mac cipher.AEAD
	// tags of the whole segments, one after the other: 256 KiB for a stream of 1 GiB.
	tags []byte
	// begun is the segment that is not whole yet.
	begun []byte
}

// newMac is shared by all connections.
func newMac(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func newStreamDigest(mac cipher.AEAD) *streamDigest {
	return &streamDigest{mac: mac, begun: make([]byte, 0, segmentBytes)}
}

func (s *streamDigest) write(bytes []byte) {
	for len(bytes) > 0 {
		if len(s.begun) == 0 && len(bytes) >= segmentBytes {
			s.tags = s.appendTag(s.tags, bytes[:segmentBytes])
			bytes = bytes[segmentBytes:]
			continue
		}
		count := segmentBytes - len(s.begun)
		if count > len(bytes) {
			count = len(bytes)
		}
		s.begun = append(s.begun, bytes[:count]...)
		bytes = bytes[count:]
		if len(s.begun) == segmentBytes {
			s.tags = s.appendTag(s.tags, s.begun)
			s.begun = s.begun[:0]
		}
	}
}

// appendTag appends the tag of a segment to the tags of those before it; their number is the nonce.
func (s *streamDigest) appendTag(tags, segment []byte) []byte {
	nonce := make([]byte, s.mac.NonceSize())
	binary.BigEndian.PutUint64(nonce[len(nonce)-8:], uint64(len(tags)/s.mac.Overhead()))
	return s.mac.Seal(tags, nonce, nil, segment)
}

// sum is the digest of what was written so far. More may be written after it.
func (s *streamDigest) sum() [sha256.Size]byte {
	tags := append([]byte(nil), s.tags...)
	if len(s.begun) > 0 {
		tags = s.appendTag(tags, s.begun)
	}
	return sha256.Sum256(tags)
}
