// Command bench measures what Weir adds to a request: the same load, from one process and towards one upstream, through a
// bare Envoy and through gateways that do more and more, side by side and in turns. docs/performance.md says how to run
// it and how to read it.
//
// It starts itself again as the load generator ("bench load") and as the upstream ("bench upstream"), so that the CPU time
// of each part can be told apart.
package main
