package lab

// none is the parameter or the result of an operation that has none.
type none struct{}

// change is a change to a host of a running network.
type change struct {
	Host   string
	Link   string
	Addr   string
	Route  Route
	Rule   Rule
	Sysctl string
	Value  string
	Wire   Wire
	Up     bool
}
