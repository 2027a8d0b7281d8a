// Package fit has only tests: a Transport's methods and listeners fit the packages that programs
// hand them to. Most of it is checked by the compiler.
package fit
