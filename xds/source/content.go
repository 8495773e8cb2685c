package source

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
)

// Content is a hash of what Hash covers of one object. Objects that are called the same and say the same have equal ones.
func Content(obj Object) ([sha256.Size]byte, error) {
	h := sha256.New()
	if err := hashObject(h, obj); err != nil {
		return [sha256.Size]byte{}, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// hashObject writes what an object is called and says.
func hashObject(h hash.Hash, obj Object) error {
	ref := RefOf(obj)
	content, err := json.Marshal(map[string]any{
		"spec":        specOf(obj),
		"labels":      obj.GetLabels(),
		"annotations": obj.GetAnnotations(),
		"created":     obj.GetCreationTimestamp(),
	})
	if err != nil {
		return fmt.Errorf("%s cannot be hashed: %w", ref, err)
	}
	hashParts(h, ref.Kind, ref.Namespace, ref.Name, string(content))
	return nil
}
