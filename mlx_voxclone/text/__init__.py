"""The form in which texts are spoken and learnt: as the servers put them; numbers in words."""
