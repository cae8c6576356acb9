// Package disk is a disk for tests that knows what a power cut may take from it.
//
// A [Disk] is served as a file by FUSE. The kernel's loop driver makes a block device
// of the file, with a real ext4 in it, and passes on what the file system does to the
// device: writes, and flushes of the device's cache, which the driver turns into
// fsync(2) of the file. What programs have written and nobody has synced is in the page
// cache and does not get here; what the file system has written, and not flushed, a
// real device may keep in its cache, for as long as it likes, and in any order.
//
// The disk keeps all of it as a log. After a power cut at some position of the log
// everything is there that was written before the last flush, and of each later write
// all, nothing, or some sectors. [Disk.After] makes such an image; the file system in it is
// mounted and replays its journal, as it would on the machine that comes up again.
//
// A copy of the image of a mounted file system would not do: it takes time, so that
// it is not a state that the disk was ever in; and it has what a device might have lost.
// FS_IOC_SHUTDOWN, which other crash tests use, has that too, and ends the run with its
// only cut. A log has as many cuts as it has writes.
package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Sector is how much a disk writes wholly or not at all, in bytes.
const Sector = 512

// Disk is a disk with a log.
type Disk struct {
	base  []byte // as it was in the beginning
	stamp func() int64

	mu     sync.Mutex
	now    []byte  // guarded by mu
	log    []entry // guarded by mu
	server *fuse.Server
}

// entry is a write, or without data a flush.
type entry struct {
	offset int64
	data   []byte
	stamp  int64
}

// New makes a disk with the content, which it keeps. stamp is noted with each write; see
// [Disk.Stamp].
func New(content []byte, stamp func() int64) *Disk {
	return &Disk{base: slices.Clone(content), now: content, stamp: stamp}
}

// Len is the position that the log has come to.
func (d *Disk) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// Between is a position that a power cut may come at, from one to another: mostly
// behind a write, since behind a flush nothing can be lost.
func (d *Disk) Between(from, end int, random *rand.Rand) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := from + random.IntN(end-from+1)
	for range 20 {
		if at > 0 && d.log[at-1].data != nil {
			break
		}
		at = from + random.IntN(end-from+1)
	}
	return at
}

// Stamp is what the stamp was at a position, 0 at the beginning.
func (d *Disk) Stamp(at int) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at == 0 {
		return 0
	}
	return d.log[at-1].stamp
}

// Loss is what a power cut took: writes that were not flushed, those of them that are
// not there, and those of which a part is there.
type Loss struct{ Unflushed, Lost, Torn int }

// After is the content after a power cut at a position of the log.
func (d *Disk) After(at int, random *rand.Rand) ([]byte, Loss) {
	d.mu.Lock()
	log := d.log[:at]
	d.mu.Unlock()
	content := slices.Clone(d.base)
	flushed := 0
	for i, e := range log {
		if e.data == nil {
			flushed = i
		}
	}
	for _, e := range log[:flushed] {
		copy(content[e.offset:], e.data)
	}
	var loss Loss
	keep := random.IntN(3) // mostly what was not flushed is there, mostly it is lost, or half of it
	for _, e := range log[flushed:] {
		if e.data == nil {
			continue
		}
		loss.Unflushed++
		switch n := random.IntN(10); {
		case n < 1 || n < 3 && keep == 1:
			loss.Torn++
			for begin := 0; begin < len(e.data); begin += Sector {
				if random.IntN(2) == 0 {
					copy(content[e.offset+int64(begin):], e.data[begin:min(begin+Sector, len(e.data))])
				}
			}
		case n < 2+4*keep:
			loss.Lost++
		default:
			copy(content[e.offset:], e.data)
		}
	}
	return content, loss
}

// Serve mounts a folder with the disk as the file that it returns. It needs root.
func (d *Disk) Serve(folder string) (file string, err error) {
	root := &fs.Inode{}
	d.server, err = fs.Mount(folder, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "disk", Name: "disk", MaxWrite: 1 << 20},
		OnAdd: func(ctx context.Context) {
			root.AddChild("disk", root.NewPersistentInode(ctx, &node{disk: d}, fs.StableAttr{}), false)
		},
	})
	if err != nil {
		return "", fmt.Errorf("mounting the disk: %w", err)
	}
	return filepath.Join(folder, "disk"), nil
}

// Close ends Serve. What uses the file must have ended.
func (d *Disk) Close() error { return d.server.Unmount() }

// node is the file.
type node struct {
	fs.Inode

	disk *Disk
}

var (
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeFsyncer   = (*node)(nil)
)

// Open has the kernel keep no copy of the file.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = syscall.S_IFREG|0o600, uint64(len(n.disk.base))
	return 0
}

func (n *node) Read(_ context.Context, _ fs.FileHandle, into []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if offset >= int64(len(n.disk.now)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(into[:copy(into, n.disk.now[offset:])]), 0
}

func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if offset+int64(len(data)) > int64(len(n.disk.now)) {
		return 0, syscall.ENOSPC
	}
	copy(n.disk.now[offset:], data)
	n.disk.log = append(n.disk.log, entry{offset, slices.Clone(data), n.disk.stamp()})
	return uint32(len(data)), 0
}

func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	n.disk.log = append(n.disk.log, entry{stamp: n.disk.stamp()})
	return 0
}

// Format makes a file with an empty ext4 of a size in bytes and returns its content.
func Format(ctx context.Context, file string, size int64) ([]byte, error) {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(file, size); err != nil {
		return nil, err
	}
	// Nothing is left for the kernel to initialise in the background.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", file); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// Mount mounts the ext4 in a file.
func Mount(ctx context.Context, file, folder string) error {
	return run(ctx, "mount", "-t", "ext4", "-o", "loop,errors=remount-ro", file, folder)
}

// Unmount ends Mount. It waits for processes that have files open and are about to end.
func Unmount(ctx context.Context, folder string) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := unix.Unmount(folder, 0)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
