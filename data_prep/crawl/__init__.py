"""Crawls: images in tars, zips, tables and loose files, of whom nobody has looked at one."""
