package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDigestNoticesOneBit(t *testing.T) {
	page := make([]byte, pageSize)
	random := randomSource(1)
	random.fill(page)
	before := digest(page)
	for _, index := range []int{0, 7, 2048, pageSize - 1} {
		page[index] ^= 0x80
		if digest(page) == before {
			t.Errorf("a flipped bit in byte %d is not noticed", index)
		}
		page[index] ^= 0x80
	}
	if digest(page) != before {
		t.Error("the same page has two digests")
	}
}

func TestMemoryVerifiesAfterFillAndRewrite(t *testing.T) {
	memory := newAnonymousMemory(1, 1)
	memory.fill()
	if n := memory.rewrite(10); n != 10*pageSize {
		t.Errorf("rewrote %d bytes", n)
	}
	for i := 0; i < memory.pageCount(); i++ {
		if !memory.verify(i) {
			t.Fatalf("page %d differs", i)
		}
	}
	memory.page(300)[17] ^= 1
	if memory.verify(300) {
		t.Error("a changed byte is not noticed")
	}
}

func TestFilesVerifyRewriteAndSkipSecondNames(t *testing.T) {
	directory := t.TempDir()
	contents := map[string][]byte{
		"a": bytes.Repeat([]byte("x"), sliceSize*2+5),
		"b": []byte("short"),
		"c": {},
	}
	for name, content := range contents {
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(directory, "a"), filepath.Join(directory, "second-name")); err != nil {
		t.Fatal(err)
	}
	files := &fileSet{}
	if err := files.warm(directory, 1<<20); err != nil {
		t.Fatal(err)
	}
	if files.count() != 4 {
		t.Fatalf("%d slices, want three of a and one of b", files.count())
	}
	random := randomSource(2)
	for i := 0; i < files.count(); i++ {
		if _, err := files.rewrite(i, &random); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < files.count(); i++ {
		if err := files.verify(i); err != nil {
			t.Errorf("after a rewrite: %v", err)
		}
	}
	if content, _ := os.ReadFile(filepath.Join(directory, "a")); len(content) != sliceSize*2+5 {
		t.Errorf("a rewrite changed the length to %d", len(content))
	}
	if err := os.WriteFile(filepath.Join(directory, "b"), []byte("shOrt"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := files.verify(3); err == nil || !strings.Contains(err.Error(), "differs") {
		t.Errorf("a changed file gives %v", err)
	}
}

func TestWarmStopsAtItsLimit(t *testing.T) {
	directory := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(directory, name), make([]byte, 4*sliceSize), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := &fileSet{}
	if err := files.warm(directory, 5*sliceSize); err != nil {
		t.Fatal(err)
	}
	if files.count() != 5 {
		t.Errorf("%d slices, want 5", files.count())
	}
}
