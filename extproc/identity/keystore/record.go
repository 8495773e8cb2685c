// Package keystore keeps API keys in Redis, for gateways with several replicas: `weir keys` writes them (Store), and every
// replica holds all of them in memory (Watcher). Redis is on no request's path, and it never sees a key, only hashes.
//
// In Redis there are, with the prefix of the shared state and one hash tag, so that a cluster keeps them together:
//
//	<prefix>:{keys}:records  hash: "namespace/name" to a Record as JSON
//	<prefix>:{keys}:log      sorted set: "namespace/name" by the version that changed it last
//	<prefix>:{keys}:meta     hash: version, which each change raises, and epoch, a random text made with the store
//	<prefix>:{keys}:changed  channel: the new version
package keystore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/identity"
)

// maxRecordBytes bounds a record: 256 models and networks of their greatest lengths, and room for the rest.
const maxRecordBytes = 256 << 10

// Record is what is stored of one key.
type Record struct {
	Namespace         string    `json:"namespace"`
	Name              string    `json:"name"`
	Consumer          string    `json:"consumer"` // of the same namespace
	Hash              string    `json:"hash"`     // as identity.ParseHash reads it
	Prefix            string    `json:"prefix,omitempty"`
	Created           time.Time `json:"created,omitzero"`
	ExpiresAt         time.Time `json:"expiresAt,omitzero"`
	Disabled          bool      `json:"disabled,omitempty"`
	AllowedModels     []string  `json:"allowedModels,omitempty"`
	AllowedCIDRs      []string  `json:"allowedCIDRs,omitempty"`
	RequestsPerMinute int64     `json:"requestsPerMinute,omitempty"`
	Scopes            []string  `json:"scopes,omitempty"`
}

// ID is what the record is stored under.
func (r *Record) ID() string { return r.Namespace + "/" + r.Name }

// Key gives the record as identity takes it.
func (r *Record) Key() (identity.Key, error) {
	kind, sum, err := identity.ParseHash(r.Hash)
	if err != nil {
		return identity.Key{}, err
	}
	return identity.Key{
		Namespace: r.Namespace, Name: r.Name, Consumer: r.Consumer, Hash: sum, Kind: kind, Prefix: r.Prefix,
		ExpiresAt: r.ExpiresAt, Disabled: r.Disabled, AllowedModels: r.AllowedModels, AllowedCIDRs: r.AllowedCIDRs,
		Scopes: r.Scopes, RequestsPerMinute: r.RequestsPerMinute,
	}, nil
}

// buried says whether the record only ends a key that replicas know and the store does not: see Store.Bury.
func (r *Record) buried() bool { return r.Disabled && r.Hash == "" && r.Consumer == "" }

// check holds a record to what every reader of it relies on.
func (r *Record) check() error {
	for field, s := range map[string]string{"namespace": r.Namespace, "name": r.Name, "consumer": r.Consumer} {
		if field == "consumer" && r.buried() {
			continue
		}
		if s == "" || len(s) > 253 || strings.ContainsFunc(s, func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
		}) {
			return fmt.Errorf("its %s is not a name of lower-case letters, digits, '-' and '.'", field)
		}
	}
	if r.buried() {
		return nil
	}
	_, _, err := identity.ParseHash(r.Hash)
	return err
}

// parseRecord reads what is stored under an ID. A member that this version does not know is an error: it may narrow what the key
// may do.
func parseRecord(id string, raw []byte) (*Record, error) {
	if len(raw) > maxRecordBytes {
		return nil, fmt.Errorf("it has %d bytes and may have %d", len(raw), maxRecordBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var r Record
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("it is not a record that this version of Weir reads: %w", err)
	}
	if dec.More() {
		return nil, errors.New("something follows the record")
	}
	if r.ID() != id {
		return nil, errors.New("it names another key than the one it is stored as")
	}
	return &r, r.check()
}
