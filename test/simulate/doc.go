// Package simulate plays a day of a pool's life in virtual time: requests of a scenario arrive at gateways, which choose
// servers by a policy, and the servers are engines of test/sim/gpu/engine. Policies are compared on exactly the same
// requests, and a scenario may say by how much one must beat another.
//
// What chooses for the policies weir and weirWeights is Weir's own code: xds/compile reads the LoadPolicy,
// xds/load/weigh computes weights and extproc/pick chooses endpoints. The other policies are what they are compared with.
//
// Nothing here reads a clock or a global source of randomness: the same scenario and seed give the same numbers.
package simulate
