// Package proc starts the processes of a benchmark and reads what they take: CPU time, memory. What it reads it asks Linux for.
package proc
