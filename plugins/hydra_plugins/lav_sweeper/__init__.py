"""The sweeper of ``-m``; Hydra looks for sweepers in this namespace alone, and imports them on every run."""
