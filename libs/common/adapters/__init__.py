"""Where the vendors' chaos stops: one file a vendor, two translations each, over one HTTP client."""
