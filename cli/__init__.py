"""The console command `mtorl`."""
