"""Short programs that use humebatch; the tests run them."""
