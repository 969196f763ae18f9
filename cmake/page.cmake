# SPDX-License-Identifier: Apache-2.0
#
# The server's page: index.html with its style and scripts put in where it names them, as an array of C.
# usage: cmake -DPAGE=FOLDER -DOUT=FILE.c -P page.cmake
file(READ ${PAGE}/index.html html)
file(READ ${PAGE}/page.css css)
string(REPLACE "<link rel=\"stylesheet\" href=\"page.css\">" "<style nonce=\"@NONCE@\">\n${css}</style>" html "${html}")
string(REGEX MATCHALL "<script src=\"[a-z]+\\.js\"></script>" tags "${html}")
foreach(tag ${tags})
    string(REGEX MATCH "[a-z]+\\.js" name "${tag}")
    file(READ ${PAGE}/${name} script)
    string(REPLACE "${tag}" "<script nonce=\"@NONCE@\">\n${script}</script>" html "${html}")
endforeach()
file(WRITE ${OUT}.html "${html}")
file(READ ${OUT}.html hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)" "\\1\n    " bytes "${bytes}")
file(WRITE ${OUT} "/* from src/serve/page */\n#include \"serve/page.h\"\n\nconst unsigned char page_bytes[] = {\n    ${bytes}\n};\nconst size_t page_size = sizeof page_bytes;\n")
