package reading

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// MaxValueBytes is the longest value that an object may point to.
const MaxValueBytes = 1 << 20

// FileValue reads a value from a file, without the white space around it. problem says what is wrong, "" if nothing is.
func FileValue(path string) (value, problem string) {
	raw, err := File(path, MaxValueBytes)
	if err != nil {
		return "", fmt.Sprintf("the file %s cannot be read: %s", path, Cause(err))
	}
	value = strings.TrimSpace(string(raw))
	if value == "" {
		return "", fmt.Sprintf("the file %s is empty", path)
	}
	return value, ""
}

// EnvValue reads a value from the environment; lookup is as os.LookupEnv. problem says what is wrong, "" if nothing is.
func EnvValue(lookup func(string) (string, bool), name string) (value, problem string) {
	value, found := lookup(name)
	switch {
	case !found:
		return "", fmt.Sprintf("the environment variable %s is not set", name)
	case strings.TrimSpace(value) == "":
		return "", fmt.Sprintf("the environment variable %s is empty", name)
	}
	return value, ""
}

// RefField is the field of a SecretRef that says where the value is, with a dot in front.
func RefField(ref v1alpha1.SecretRef) string {
	switch {
	case ref.Name != "":
		return ".name"
	case ref.File != "":
		return ".file"
	default:
		return ".env"
	}
}

// File reads a regular file of at most limit bytes.
func File(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for a writer
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("larger than %d KiB", limit>>10)
	}
	return raw, nil
}

// Cause is what the system said, without the call and the path that the message names already.
func Cause(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
