package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=...).
var version = ""

// buildVersion falls back on what the go command recorded.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

func (a *app) newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of kvctl (those of the nodes: kvctl status)",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			platform := runtime.GOOS + "/" + runtime.GOARCH
			switch a.output {
			case outputJSON:
				return a.printJSON(struct {
					Version  string `json:"version"`
					Go       string `json:"go"`
					Platform string `json:"platform"`
				}{buildVersion(), runtime.Version(), platform})
			case outputTable:
				t := a.newTable("VERSION", "GO", "PLATFORM")
				t.row(buildVersion(), runtime.Version(), platform)
				return t.flush()
			default:
				_, err := fmt.Fprintf(a.stdout, "kvctl %s %s %s\n", buildVersion(), runtime.Version(), platform)
				return err
			}
		},
	}
}
