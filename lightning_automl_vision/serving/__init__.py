"""Models as a service over HTTP. Imported by ``lav serve`` alone, late; imports no torch: ``load`` decides on that."""
