"""One bounded queue and pacer per host: who goes next, and when."""
