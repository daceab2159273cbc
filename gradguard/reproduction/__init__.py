"""Every experiment of the source documents: what they claim, what comes out."""
