// Command small is a program to make images of.
package main

import "os"

func main() { os.Stdout.WriteString("small\n") }
