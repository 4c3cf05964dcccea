"""Candidates x clients on lanes, devices and hosts; the only package that names the mesh."""
