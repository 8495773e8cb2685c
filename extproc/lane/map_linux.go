package lane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// mapped is the file, held by this process.
type mapped struct {
	f   *os.File
	mem memory
}

// openFile maps the file, and makes it where it does not exist. No other process may have it by openFile at the same time.
func openFile(path string) (*mapped, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		// Not to wait for the other end where it is a pipe.
		f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("the lane file %s cannot be opened: %w", path, cause(err))
	}
	m := &mapped{f: f}
	if err := m.prepare(); err != nil {
		m.close()
		return nil, fmt.Errorf("the lane file %s %w", path, err)
	}
	return m, nil
}

// prepare locks, checks, sizes and maps the file.
func (m *mapped) prepare() error {
	fd := int(m.f.Fd())
	st, err := m.f.Stat()
	if err != nil {
		return fmt.Errorf("cannot be looked at: %w", cause(err))
	}
	if !st.Mode().IsRegular() {
		return errors.New("is not a regular file: remove it, or name another path")
	}
	// Envoy's Lua looks whether somebody has the lock, too: it goes with the process, however that ends.
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return errors.New("is in use by another weir: give each its own")
		}
		return fmt.Errorf("cannot be locked: %w", err)
	}
	// Whoever can write to it lets requests in. Envoy runs as the same user.
	if err := m.f.Chmod(0o600); err != nil {
		return fmt.Errorf("cannot be closed to others: %w", cause(err))
	}
	// Before anything is written: what has another beginning is not ours.
	head := make([]byte, 8)
	if n, err := m.f.ReadAt(head, 0); err != nil && err != io.EOF {
		return fmt.Errorf("cannot be read: %w", cause(err))
	} else if n > 0 {
		magic, layout := binary.NativeEndian.Uint32(head[atMagic:]), binary.NativeEndian.Uint32(head[atLayout:])
		if (magic != fileMagic || layout != fileLayout) && (magic != 0 || layout != 0) {
			return errors.New("holds something else, or was made by another version of weir: remove it, or name another path")
		}
	}
	// With bytes, not with a hole: a full disk is an error here, and a fault when a hole is written to later.
	if st.Size() < fileSize {
		if _, err := m.f.WriteAt(make([]byte, fileSize-st.Size()), st.Size()); err != nil {
			return fmt.Errorf("cannot be made %d bytes long: %w", fileSize, cause(err))
		}
	}
	mem, err := unix.Mmap(fd, 0, fileSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("cannot be mapped: %w", err)
	}
	m.mem = mem
	return nil
}

// close gives the file up; nobody may use its memory any more.
func (m *mapped) close() {
	if m.mem != nil {
		_ = unix.Munmap(m.mem)
		m.mem = nil
	}
	_ = m.f.Close()
}

// cause is the error without the path, which the sentence has already.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
