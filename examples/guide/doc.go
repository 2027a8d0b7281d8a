// Package guide has the recipes of docs/guide.md, each with a test of what the guide says of it.
// They are there to be copied.
package guide
