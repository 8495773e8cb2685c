// Remember measures the response cache: what it saves and what a hit costs on a workload with repeats, beside the same gateway without it;
// what becomes of many equal requests at once; and how many questions after what was never cached the bloom filter keeps from Redis.
//
//	go run ./test/bench/remember -h
package main
