// Command crossvet is go vet without the compiler: it reads all dependencies from
// their source. go vet first compiles them, which for another system is most of the
// standard library.
package main

import (
	"golang.org/x/tools/go/analysis/multichecker"
	"golang.org/x/tools/go/analysis/suite/vet"
)

func main() { multichecker.Main(vet.Suite...) }
