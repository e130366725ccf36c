"""Common words of the languages that the rules read, and of others that are written in Latin letters; and letters that show one."""

from __future__ import annotations

WORDS = {
    "en": (
        "the and is of to in it that this are was with not but an be from does has which there as on for at by its what how many much who "
        "where when why do did can could would should will i you we they he she my your his her their no yes or if so any all some more "
        "than then these those one two three four five six seven eight nine ten red blue green yellow black white brown gray grey orange "
        "purple pink image picture photo shown shows answer option choice correct sorry help cannot can't won't m s t re ve left right "
        "above below behind front between color colour car dog cat man woman people person table tree bus train boat bird horse sign text "
        "number time date hours minutes first second step here however instead please about like just only also very true false neither "
        "both appears visible total because into over under up down out after before explain tell make give write describe name list"
    ),
    "de": (
        "der die das und ist nicht ein eine es den dem mit auf auch aber im zu sind wird wurde von sich wie aus des einen einem einer nur noch "
        "was wer wo wann warum welche welcher welches viele viel ja nein ich du wir sie er kann können hat haben für bei nach über unter "
        "vor hinter neben zwischen kein keine keinen rot blau grün gelb schwarz weiß braun grau lila rosa bild foto antwort richtig falsch "
        "leider tut leid helfen hier jedoch stattdessen bitte links rechts oben unten hund katze mann frau auto tisch baum uhr zwei drei "
        "vier fünf sechs sieben acht neun zehn oder wenn dass zum zur am als so steht sitzt gibt farbe menschen personen schritt zuerst "
        "dann danach anleitung diese dieser dieses dir dabei mich mir ihnen euch man sehen sieht zeigt heißt lautet bin darf werde"
    ),
    "fr": (
        "le la les et est une des du dans pas que qui il elle sur pour avec mais ce cette ces sont au aux ne être en se par plus un je vous "
        "nous tu ils elles on quel quelle quels quelles combien où quand pourquoi comment oui non rouge bleu bleue vert verte jaune noir "
        "noire blanc blanche brun marron gris grise rose image photo réponse bonne désolé désolée aider peux puis voici cependant toutefois "
        "plutôt gauche droite dessus dessous derrière devant entre chien chat chats homme femme voiture table arbre heures deux trois "
        "quatre cinq six sept huit neuf dix ou si d l c n s j qu y a ai as avons ont fait faire aucun aucune personnes couleur étape "
        "d'abord ensuite illégal votre vos mon mes ma son sa ses leur leurs ni très tout cela ceci ça y être peut pouvez veuillez"
    ),
    "es": (
        "el la los las y es una de en que no del se con por para pero este esta como al su lo son más hay está un están qué quién cuál "
        "cuántos cuántas cuánto dónde cuándo cómo sí rojo roja azul verde amarillo amarilla negro negra blanco blanca marrón gris naranja "
        "imagen foto respuesta correcta opción lo siento ayudar puedo aquí tienes embargo izquierda derecha arriba abajo detrás delante "
        "entre perro perra gato gatos hombre mujer coche mesa árbol hora dos tres cuatro cinco seis siete ocho nueve diez o si ni ningún "
        "ninguna yo tú usted nosotros ellos mi tu sus personas color paso primero luego después ilegal esto eso ese esa muy todo todos "
        "hacer también porque cuando puede pueden soy eres somos tiene tienen pero sobre desde hasta sin algún alguna te le les me"
    ),
    "pt": (
        "o a os as e é uma de que não do da em com por para mas este esta como no na são dos das um se ao mais foi está estão há qual quais "
        "quem quantos quantas quanto onde quando sim vermelho vermelha azul verde amarelo amarela preto preta branco branca marrom castanho "
        "cinza laranja imagem foto resposta correta opção desculpe sinto muito ajudar posso aqui entanto esquerda direita acima abaixo "
        "atrás frente entre cachorro cão gato gatos homem mulher carro mesa árvore horas dois duas três quatro cinco seis sete oito nove "
        "dez ou nem nenhum nenhuma eu você nós eles meu seu sua suas pessoas cor passo primeiro depois ilegal isso isto esse essa muito "
        "tudo todos fazer também porque pode podem sou somos tem têm sobre pela pelo pelos nesse nessa neste nesta ser à às lhe me"
    ),
}
OTHERS = {
    "it": (
        "il lo gli i le la un uno una di del della dei delle dello nel nella nei è non che con per ma questo questa sono alla alle al si più "
        "anche quanti quante quanto quale quali chi dove quando perché come sì rosso rossa blu verde giallo gialla nero nera bianco bianca "
        "grigio immagine foto risposta corretta mi dispiace posso aiutare aiutarti ecco sinistra destra sopra sotto cane gatto gatti uomo "
        "donna auto macchina tavolo albero ore due tre quattro cinque sei sette otto nove dieci nessun nessuna c ci sul sulla dall dell "
        "nell all colore persone vedo vedere opzione oppure però vi mio tuo suo ho ha hanno essere stato fare signore e o"
    ),
    "nl": (
        "de het een en is van niet dat die in op te zijn met voor maar ook deze er aan als wordt bij naar geen om dit hoeveel wie wat waar "
        "wanneer waarom hoe ja nee rood blauw groen geel zwart wit bruin grijs foto afbeelding antwoord juist sorry helpen kan ik je jij u "
        "wij links rechts boven onder hond kat katten man vrouw auto tafel boom uur twee drie vier vijf zes zeven acht negen tien of kleur "
        "mensen hier echter mag daarmee jou mijn heeft hebben staat zit worden dan dus zo naast achter voor tussen welke welk"
    ),
    "sv": (
        "och att det som en ett är på av för med den till inte om har men de så vi jag du kan inga ingen hur många vad vem var när varför ja "
        "nej röd blå grön gul svart vit brun grå bilden bild svaret rätt ledsen hjälpa här vänster höger hund katt man kvinna bil bord träd "
        "två tre fyra fem sex sju åtta nio tio eller färg människor finns inte något från"
    ),
    "da": (
        "og at det som en et er på af for med den til ikke om har men de så vi jeg du kan ingen hvor mange hvad hvem hvornår hvorfor ja nej "
        "rød blå grøn gul sort hvid brun grå billedet svaret rigtigt beklager hjælpe her venstre højre hund kat mand kvinde bil bord træ to "
        "tre fire fem seks syv otte ni ti eller farve mennesker der fra hvilken bilen"
    ),
    "no": (
        "og at det som en et er på av for med den til ikke om har men de så vi jeg du kan ingen hvor mange hva hvem når hvorfor ja nei rød "
        "blå grønn gul svart hvit brun grå bildet svaret riktig beklager hjelpe her venstre høyre hund katt mann kvinne bil bord tre to fire "
        "fem seks sju åtte ni ti eller farge mennesker fra hvilken bilen"
    ),
    "fi": (
        "ja on ei se että en hän oli ovat mutta kun niin kuin tämä mitä kuka missä kuinka monta kyllä punainen sininen vihreä keltainen musta "
        "valkoinen kuvassa vastaus anteeksi auttaa voi vasemmalla oikealla koira kissa mies nainen auto yksi kaksi kolme neljä viisi kuusi "
        "väri ihmistä"
    ),
    "pl": (
        "i w na jest nie się z do że to jak od po ale co ma są dla o za tak przez przy ten ta ile kto gdzie kiedy dlaczego czerwony niebieski "
        "zielony żółty czarny biały obraz obrazku zdjęciu odpowiedź przepraszam pomóc mogę lewo prawo pies kot kobieta samochód stół drzewo "
        "jeden dwa trzy cztery pięć kolor ludzi osób jakiego czy oto tym"
    ),
    "cs": (
        "a je v na se že to s z do ne jsou jak ale kolik kdo kde kdy proč ano červená modrá zelená černá bílá obrázku odpověď promiňte pomoci "
        "mohu vlevo vpravo pes kočka muž žena auto jeden dva tři čtyři pět barva lidí jakou omlouvám"
    ),
    "hu": (
        "a az és nem van hogy egy ez meg is de ki mi hol hány igen piros kék zöld sárga fekete fehér képen válasz sajnálom segíteni kutya "
        "macska férfi nő autó egy két három négy öt szín ember milyen"
    ),
    "ro": (
        "și în nu este la pe cu de că un o din mai sunt care ce cine unde când cât câți câte da roșu albastru verde galben negru alb imagine "
        "răspunsul corect rău ajut pot stânga dreapta câine pisică bărbat femeie mașina masă copac doi trei patru cinci culoare oameni îmi pare"
    ),
    "tr": (
        "ve bir bu da de için ile çok ama olarak değil var daha gibi olan ne kadar sonra her yok evet hayır kaç kim nerede kırmızı mavi yeşil "
        "sarı siyah beyaz resimde cevap doğru üzgünüm yardımcı olamam sağ köpek kedi adam kadın araba masa ağaç iki üç dört beş renk kişi "
        "hangi nedir mi mı"
    ),
    "vi": (
        "và là của có không trong một cho được với này các những người đã khi từ như thì bao nhiêu màu đỏ xanh vàng đen trắng hình ảnh câu trả lời "
        "xin lỗi tôi thể giúp bạn bên trái phải chó mèo xe hai ba bốn năm gì ai ở đâu"
    ),
    "id": (
        "yang dan di ini itu dengan untuk tidak dari dalam pada adalah ke oleh ada juga akan sebagai karena berapa siapa apa mana kapan ya "
        "bukan merah biru hijau kuning hitam putih gambar jawaban benar maaf saya bisa membantu kiri kanan anjing kucing pria wanita mobil "
        "meja pohon satu dua tiga empat lima warna orang anda"
    ),
    "tl": "ang ng sa na ay mga at hindi ito siya ako ko mo ka po ilan sino ano saan kailan oo pula asul berde larawan sagot paumanhin aso pusa kulay",
    "sw": "na ya wa ni kwa katika hii hiyo si la za ndiyo hapana ngapi nani nini wapi nyekundu picha jibu samahani siwezi mbwa paka gari rangi watu",
    "ca": "el la els les i és una de en que no del amb per però aquest aquesta com al hi ha són més sí quants quantes vermell blau groc negre imatge "
    "resposta ho sento puc ajudar gos gat home dona cotxe dos tres quatre cinc i o color",
    "hr": "i je u na se da ne za od su ali što tko gdje kada koliko crvena plava zelena crna bijela slici odgovor žao mi mogu pomoći pas mačka auto dva tri boja",
    "fil": "hindi oo ang mga",
    "et": "ja on ei see et ta oli kui mis kes kus mitu jah punane sinine roheline pildil vastus vabandust koer kass auto üks kaks kolm",
    "lt": "ir yra ne tai kad su iš kaip bet kiek kas kur taip raudona mėlyna žalia juoda balta paveikslėlyje atsakymas atsiprašau šuo katė du trys",
    "eo": "la kaj estas ne en de al kun ke por jes kiom kio kie ruĝa blua verda bildo respondo hundo kato",
    "af": "die en is nie van het in op te met vir maar ook hierdie hoeveel wie wat waar ja nee rooi blou groen geel swart foto antwoord jammer hond kat",
    "sq": "dhe është në nuk një të për me po jo sa kush çfarë ku kuqe blu gjelbër zi bardhë foto përgjigja qen mace",
    "sk": "a je v na sa že to s z do nie sú ako ale koľko kto kde kedy áno červená modrá zelená čierna biela obrázku odpoveď prepáčte pomôcť pes mačka",
}
# Letters that only languages of OTHERS write.
CHARACTERS = {
    "pl": "łąężźśćń",
    "cs": "řěů",
    "hu": "őű",
    "tr": "ğşı",
    "ro": "șțţă",
    "vi": "đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "da": "øæ",
    "sv": "å",
    "hr": "čđ",
    "lt": "ėįų",
    "eo": "ĝĉŝŭ",
}
