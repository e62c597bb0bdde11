"""report.html: the page of a benchmark, one file that opens offline and fetches nothing.

document      the JSON document, of every schema version, with what is absent as None
first_table   the table a reader wants first, shared by page and terminal
quality, scenarios, machine   what else there is to tell, as cards
plots         inline SVG in the page's own colours
page          all of it as HTML
console       the first table on a terminal
"""
