"""`zpack/1`: one Zarr v3 group of packed rows, their Parquet sidecars, receipts, an index and tables."""
