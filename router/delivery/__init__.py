"""How an answer reaches those who wait for it: signs of life, one answer for repeated requests, resumed streams."""
