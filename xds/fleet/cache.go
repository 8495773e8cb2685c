package fleet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// The cache file is a head in the open, which the seal covers as well, and a DeltaDiscoveryResponse with all resources, sealed with AES-256-GCM:
//
//	cacheMagic | salt of the key | nonce | sealed response
//
// The key comes from the private key of the client's certificate (HKDF with SHA-256). Who has that key can ask the control plane for the same.
const (
	cacheMagic = "weir fleet cache 1\n"
	saltSize   = 16
	nonceSize  = 12
	headSize   = len(cacheMagic) + saltSize + nonceSize
	// maxCache bounds a file that is read, in bytes.
	maxCache = 1 << 30
)

// errForeign says that a file is not of this client, or not as it was written.
var errForeign = errors.New("it was written with another private key or for another scope, or it is damaged")

// seal writes a set for the cache file.
func seal(s *set, scope Scope, privateKey any) ([]byte, error) {
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: TypeURL, SystemVersionInfo: s.digest}
	for _, it := range s.items {
		m.Resources = append(m.Resources, it.message())
	}
	secret, err := secretOf(privateKey)
	if err != nil {
		return nil, err
	}
	return sealMessage(m, scope.key(), secret)
}

// sealMessage seals with a key that comes from a secret. What the file is for has to be the same when it is opened.
func sealMessage(m *discoveryv3.DeltaDiscoveryResponse, purpose string, secret []byte) ([]byte, error) {
	plain, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	head := make([]byte, headSize, headSize+len(plain)+16)
	copy(head, cacheMagic)
	rand.Read(head[len(cacheMagic):])
	sealer, err := sealer(head, secret)
	if err != nil {
		return nil, err
	}
	return sealer.Seal(head, head[headSize-nonceSize:], plain, additional(head[:headSize], purpose)), nil
}

// unseal reads what seal wrote.
func unseal(file []byte, scope Scope, privateKey any) (*set, error) {
	secret, err := secretOf(privateKey)
	if err != nil {
		return nil, err
	}
	return unsealMessage(file, scope.key(), secret)
}

// unsealMessage reads what sealMessage wrote.
func unsealMessage(file []byte, purpose string, secret []byte) (*set, error) {
	if len(file) < headSize || string(file[:len(cacheMagic)]) != cacheMagic {
		return nil, errors.New("it is no cache file of this version of Weir")
	}
	head := file[:headSize]
	sealer, err := sealer(head, secret)
	if err != nil {
		return nil, err
	}
	plain, err := sealer.Open(nil, head[headSize-nonceSize:], file[headSize:], additional(head, purpose))
	if err != nil {
		return nil, errForeign
	}
	m := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(plain, m); err != nil || m.GetTypeUrl() != TypeURL {
		return nil, errors.New("what is sealed in it is no set of objects")
	}
	return (*set)(nil).with(m), nil
}

// secretOf is what the key of a seal comes from where that is a private key.
func secretOf(privateKey any) ([]byte, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(privateKey)
	if err != nil {
		return nil, fmt.Errorf("the private key cannot be used for sealing: %w", err)
	}
	return secret, nil
}

func sealer(head, secret []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, head[len(cacheMagic):len(cacheMagic)+saltSize], cacheMagic, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// additional is what the seal covers besides the set: a file for another purpose, as another scope, does not open.
func additional(head []byte, purpose string) []byte {
	return append(append([]byte(nil), head...), purpose...)
}

// readCache returns the set in a file, and when it was written; nil without an error where there is no file.
func readCache(path string, scope Scope, privateKey any) (*set, time.Time, error) {
	content, written, err := readFile(path)
	if content == nil || err != nil {
		return nil, time.Time{}, err
	}
	s, err := unseal(content, scope, privateKey)
	return s, written, err
}

// readFile returns what is in a file, and when it was written; nil without an error where there is none.
func readFile(path string) ([]byte, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCache {
		return nil, time.Time{}, fmt.Errorf("it is no file, or has more than %d bytes", maxCache)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxCache))
	if content == nil {
		content = []byte{}
	}
	return content, info.ModTime(), err
}

// writeCache replaces a file, so that it is the old or the new one whatever happens.
func writeCache(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
