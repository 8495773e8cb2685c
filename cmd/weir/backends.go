package main

import "github.com/weir-dev/weir/console/api"

// steeringBody is the answer of /api/backends, as explain reads and prints it.
type steeringBody api.Steering

type poolBody = api.SteeredPool
