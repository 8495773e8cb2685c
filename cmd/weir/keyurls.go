package main

import (
	"slices"
	"sync"
)

// keyURLs remembers which key sets versions need that are compiled and may yet go live. Hold mu for every call.
type keyURLs struct {
	mu       sync.Mutex
	versions []versionKeys // oldest first
}

type versionKeys struct {
	version string
	urls    []string
}

func (k *keyURLs) compiled(version string, urls []string) {
	k.versions = slices.DeleteFunc(k.versions, func(v versionKeys) bool { return v.version == version })
	k.versions = append(k.versions, versionKeys{version, urls})
}

// live forgets what is older than the version that has gone live, and returns the URLs of the rest.
func (k *keyURLs) live(version string) []string {
	for i := len(k.versions) - 1; i > 0; i-- {
		if k.versions[i].version == version {
			k.versions = k.versions[i:]
			break
		}
	}
	var urls []string
	for _, v := range k.versions {
		urls = append(urls, v.urls...)
	}
	return urls
}
