// Package fleet carries objects from a control plane to the processes beside Envoy: `weir control` reads the Kubernetes API once and hands
// what it read to many, over delta xDS and mTLS. Each of them compiles by itself, as if it had read the objects from a folder.
//
// What a client has is named on two levels. A set is one consistent reading with everything in it, and has a number that the server
// counts up; responses carry it as their nonce. A digest (source.Objects.Digest) names which generations of which objects a set holds: sets
// that differ in endpoints or secret values only have the same digest. Clients acknowledge sets, and reports speak of digests.
package fleet
