package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/server"
)

func newStart() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run one node of a cluster",
		Long: "Runs one node of a cluster, or a cluster of one node.\n\n" +
			"Each setting can also come from the environment (--data-dir from KVD_DATA_DIR)\n" +
			"or from the YAML file of --config (data-dir: DIR); a flag goes before the\n" +
			"environment, the environment before the file.",
		Example: "  kvd start --name n1 --data-dir /var/lib/kvd \\\n" +
			"    --listen-client 10.0.0.1:7400 --listen-peer 10.0.0.1:7401 \\\n" +
			"    --initial-cluster n1=10.0.0.1:7401,n2=10.0.0.2:7401,n3=10.0.0.3:7401",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := resolve(cmd.Flags(), os.Environ())
			if err != nil {
				return &usageError{err}
			}
			o.Logger = newLogger(cmd.ErrOrStderr(), o.LogLevel)
			o.Version = server.Version
			return serve(cmd.Context(), []server.Config{o.Config}, nil)
		},
	}
	addSettings(cmd.Flags())
	return cmd
}
