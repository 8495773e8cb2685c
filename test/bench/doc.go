// Command bench measures what Weir adds to a request: the same load, from one process and towards one upstream, through a
// bare Envoy, through one with an external processor that does nothing, and through Weir, side by side and in turns.
// docs/performance.md says how to run it and how to read it.
//
// It starts itself again as the load generator ("bench load"), as the upstream ("bench upstream"), as the processor that does
// nothing ("bench floor") and as the collector of traces ("bench sink"), so that the CPU time of each part can be told apart.
package main
