"""Pictures from outside: files, videos, webcams, bags, image messages; all untrusted."""
