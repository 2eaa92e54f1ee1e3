package main

import (
	"sync"
	"syscall"
	"unsafe"
)

const pageSize = 4096

// randomSource is xorshift64*: fast under emulation, and incompressible is all that its output has to be.
type randomSource uint64

func (r *randomSource) next() uint64 {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = randomSource(x)
	return x * 0x2545f4914f6cdd1d
}

// fill writes random bytes; the length must be a multiple of 8.
func (r *randomSource) fill(bytes []byte) {
	content := words(bytes)
	for i := range content {
		content[i] = r.next()
	}
}

// words is the same memory as 64-bit words; the slices here all begin at a multiple of 8.
func words(bytes []byte) []uint64 {
	if len(bytes) < 8 {
		return nil
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(&bytes[0])), len(bytes)/8)
}

// digest is a 64-bit checksum of a slice whose length is a multiple of 8. It has to notice a wrong page, not an attacker.
func digest(bytes []byte) uint64 {
	sum := uint64(len(bytes))
	for _, word := range words(bytes) {
		sum = (sum ^ word) * 0x9e3779b97f4a7c15
		sum ^= sum >> 29
	}
	return sum
}

// anonymousMemory is memory that is on no disk: first the random pages, then the compressible ones. It lies outside of
// Go's heap, so that nothing but this program's own writes changes it.
type anonymousMemory struct {
	mutex       sync.Mutex
	bytes       []byte
	randomBytes int
	digests     []uint64
	random      randomSource
}

func newAnonymousMemory(randomMiB, textMiB int) *anonymousMemory {
	size := (randomMiB + textMiB) << 20
	memory := &anonymousMemory{randomBytes: randomMiB << 20, random: 0x1234567887654321}
	if size == 0 {
		return memory
	}
	bytes, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	must("map anonymous memory", err)
	memory.bytes = bytes
	memory.digests = make([]uint64, size/pageSize)
	return memory
}

func (m *anonymousMemory) pageCount() int { return len(m.digests) }

func (m *anonymousMemory) page(index int) []byte {
	return m.bytes[index*pageSize : (index+1)*pageSize]
}

// fill gives every page its content and remembers its digest.
func (m *anonymousMemory) fill() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for i := 0; i < m.pageCount(); i++ {
		if i*pageSize < m.randomBytes {
			m.random.fill(m.page(i))
		} else {
			m.fillText(m.page(i))
		}
		m.digests[i] = digest(m.page(i))
	}
}

// fillText makes a page that compresses about as well as a heap does (zstd: to about a quarter): runs of small
// integers and of repeated words, with something random in every 32 bytes.
func (m *anonymousMemory) fillText(page []byte) {
	content := words(page)
	base := m.random.next()
	for i := range content {
		switch i & 3 {
		case 0:
			content[i] = base&^0xffff_ffff | m.random.next()&0x3f_ffff
		case 1:
			content[i] = uint64(i)
		default:
			content[i] = base
		}
	}
}

// rewrite gives `count` pages, spread over the random part, new random content. Returns the bytes written.
func (m *anonymousMemory) rewrite(count int) int {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	pages := m.randomBytes / pageSize
	if pages == 0 {
		return 0
	}
	for i := 0; i < count; i++ {
		index := int(m.random.next() % uint64(pages))
		m.random.fill(m.page(index))
		m.digests[index] = digest(m.page(index))
	}
	return count * pageSize
}

// verify says whether the page still has the content it was given.
func (m *anonymousMemory) verify(index int) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return digest(m.page(index)) == m.digests[index]
}
