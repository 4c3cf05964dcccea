"""The simulated phones: devices and links, who takes part, the ledger and its prices."""
