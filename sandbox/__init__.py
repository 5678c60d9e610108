"""What a laptop needs to run Darkroom: Postgres, an object store, provider simulators and the launcher."""

from sandbox import forks

forks.prepare()
