// Command scale measures what one change costs a fleet, by the number of its objects: from a PATCH at a real kube-apiserver through `weir control` to many
// clients, and on through `weir serve` to an Envoy. docs/performance.md says how to run it and how to read it.
package main
