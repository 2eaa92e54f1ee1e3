package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// sliceSize is what is read, verified and rewritten at once: four pages, a few hundred microseconds under emulation.
const sliceSize = 16 << 10

// errEnoughRead ends the walk of warm.
var errEnoughRead = errors.New("enough read")

// fileSlice is one checksummed piece of a file; 16 bytes each, some 50,000 in a warm guest.
type fileSlice struct {
	file   uint32
	number uint32
	digest uint64
}

// fileSet is the files that the guest has read, and so has in its page cache as long as memory allows.
type fileSet struct {
	mutex  sync.Mutex
	paths  []string
	slices []fileSlice
	buffer [sliceSize]byte
}

func (f *fileSet) count() int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return len(f.slices)
}

// warm reads regular files in the order of their names until `limit` bytes are read, and keeps their checksums.
func (f *fileSet) warm(directory string, limit int64) error {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		if total >= limit {
			return errEnoughRead
		}
		// A file with two names counts once: rewriting it by one name would look like damage by the other.
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if stat, known := info.Sys().(*syscall.Stat_t); known && stat.Nlink > 1 {
			if seen[stat.Ino] {
				return nil
			}
			seen[stat.Ino] = true
		}
		f.mutex.Lock()
		defer f.mutex.Unlock()
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer syscall.Close(fd)
		index := uint32(len(f.paths))
		f.paths = append(f.paths, path)
		for number := uint32(0); total < limit; number++ {
			sum, n, err := f.readSlice(fd, number)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if n == 0 {
				break
			}
			f.slices = append(f.slices, fileSlice{file: index, number: number, digest: sum})
			total += int64(n)
			if n < sliceSize {
				break
			}
		}
		return nil
	})
	if err == errEnoughRead {
		return nil
	}
	return err
}

// readSlice returns the digest and the length of a slice; the tail of a last slice counts as zero bytes.
func (f *fileSet) readSlice(fd int, number uint32) (uint64, int, error) {
	length := 0
	for length < sliceSize {
		n, err := syscall.Pread(fd, f.buffer[length:], int64(number)*sliceSize+int64(length))
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		if n == 0 {
			break
		}
		length += n
	}
	padded := (length + 7) &^ 7
	for i := length; i < padded; i++ {
		f.buffer[i] = 0
	}
	return digest(f.buffer[:padded]), length, nil
}

// verify reads a slice, from the page cache when it is still there, and says what is wrong with it, if anything.
func (f *fileSet) verify(index int) error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	slice := f.slices[index]
	path := f.paths[slice.file]
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer syscall.Close(fd)
	sum, _, err := f.readSlice(fd, slice.number)
	if err != nil {
		return fmt.Errorf("%s slice %d: %w", path, slice.number, err)
	}
	if sum != slice.digest {
		return fmt.Errorf("%s slice %d differs", path, slice.number)
	}
	return nil
}

// rewrite gives a slice new random content in place (the file keeps its blocks) and remembers it. Returns the bytes written.
func (f *fileSet) rewrite(index int, random *randomSource) (int, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	slice := &f.slices[index]
	path := f.paths[slice.file]
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	defer syscall.Close(fd)
	_, length, err := f.readSlice(fd, slice.number)
	if err != nil {
		return 0, fmt.Errorf("%s slice %d: %w", path, slice.number, err)
	}
	random.fill(f.buffer[:])
	n, err := syscall.Pwrite(fd, f.buffer[:length], int64(slice.number)*sliceSize)
	if err != nil {
		return 0, fmt.Errorf("%s slice %d: %w", path, slice.number, err)
	}
	// Read back: the digest counts the tail of a last slice as zero bytes.
	slice.digest, _, err = f.readSlice(fd, slice.number)
	return n, err
}

// ageDisk writes, deletes and rewrites files until `limit` bytes are written, as an installed system does with updates:
// copies of existing files in fresh places, a third of them deleted again (their blocks stay behind with old content),
// a third of the others partly rewritten.
func ageDisk(directory string, limit int) error {
	var sources []string
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			sources = append(sources, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	random := randomSource(0x5eed5eed5eed5eed)
	aged := filepath.Join(directory, "aged")
	if err := os.MkdirAll(aged, 0o755); err != nil {
		return err
	}
	for written, serial := 0, 0; written < limit; serial++ {
		source := sources[random.next()%uint64(len(sources))]
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		copyPath := filepath.Join(aged, fmt.Sprintf("%06d", serial))
		if err := os.WriteFile(copyPath, content, 0o644); err != nil {
			return err
		}
		written += len(content)
		switch random.next() % 3 {
		case 0:
			// An update: the original goes, the copy takes its name in new blocks.
			if err := os.Rename(copyPath, source); err != nil {
				return err
			}
		case 1:
			if err := os.Remove(copyPath); err != nil {
				return err
			}
		case 2:
			if err := overwriteSome(copyPath, int64(len(content)), &random); err != nil {
				return err
			}
		}
		if serial%256 == 255 {
			syscall.Sync()
		}
	}
	syscall.Sync()
	// What was written must be read again as a guest that booted from the aged disk would.
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644)
}

// overwriteSome puts 64 random bytes into one page in eight of a file.
func overwriteSome(path string, size int64, random *randomSource) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	var bytes [64]byte
	for offset := int64(0); offset+pageSize <= size; offset += 8 * pageSize {
		random.fill(bytes[:])
		if _, err := file.WriteAt(bytes[:], offset); err != nil {
			return err
		}
	}
	return nil
}
